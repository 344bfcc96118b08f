"""Which networks there are and what they cost: architectures, search space, cost, budgets, Pareto front."""
