"""An experiment: a table of runs (algorithm x setting x seed), and what they come to. Starting them is `cli/`'s."""
