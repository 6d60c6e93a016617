"""What a person looks at: drawn boxes, charts, progress."""
