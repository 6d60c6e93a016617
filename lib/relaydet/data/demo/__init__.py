"""The generated demo set: three folders of real files in two real formats, from a seed."""

from relaydet.data.demo.write import write_demo

__all__ = ["write_demo"]
