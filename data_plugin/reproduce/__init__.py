"""The papers' tables, run by recipe: our rows beside theirs."""
