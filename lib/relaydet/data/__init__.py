"""Annotations and images: from files in any format to the batches that a detector trains on."""
