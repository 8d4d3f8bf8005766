"""The operations of the embedded world, a file for each family; every file ends in its ``OPERATIONS``."""
