"""The notebooks as a person uses them: a real JupyterLab in a real browser, without a screen.

`make test-browser` runs it. It needs chromium or Chrome, and playwright from PyPI to drive it.
"""
