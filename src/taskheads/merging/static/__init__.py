"""Merges that need no gradient: functions on tensors of one name. Nothing here loads torch."""
