"""Checks that leave a dataset in which every record can be used, and say what they changed.

Each check takes a dataset and gives back a new one with its findings; records that need no change
are shared between the two, and no record is altered in place.
"""
