"""Short of training examples: choose, prune, mix and weight the data; the model and its recipe stay fixed."""
