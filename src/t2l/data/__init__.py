"""Training data: tasks from where they are kept to one tokenised store, and the order in which they are trained on."""
