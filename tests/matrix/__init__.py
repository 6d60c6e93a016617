"""The test-suite in one virtual environment per torch generation: `python tests/matrix`."""
