"""The demo: everyday tasks written by hand, what the shipped checkpoint makes of them, and how that is shown."""
