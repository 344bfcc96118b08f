"""Images, unlabelled and labelled, wherever they are kept, and how they reach a network."""
