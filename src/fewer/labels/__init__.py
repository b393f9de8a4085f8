"""Short of labels: a budget of labels is spent round by round on the rows that teach the most."""
