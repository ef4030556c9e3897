"""Edits on disk: ours, PEFT's and AdapterHub's."""
