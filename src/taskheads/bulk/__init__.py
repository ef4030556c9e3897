"""Answers for files of any size: read in blocks, answered here or by a cluster, written whole or resumed."""
