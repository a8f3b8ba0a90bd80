"""The documentation, read as data: what it shows is run, what it says is compared with the code."""
