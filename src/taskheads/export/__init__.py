"""A model for elsewhere: one file that other runtimes run."""
