"""The laboratory: code that makes training data out of rules and word lists, outside the package that is installed."""
