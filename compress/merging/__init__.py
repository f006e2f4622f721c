"""Merge methods: one file each, one registry. A recipe names a method and is checked against it."""

from compress.merging.method import MergeMethod
from compress.merging.task_arithmetic import TASK_ARITHMETIC

METHODS: dict[str, MergeMethod] = {method.name: method for method in (TASK_ARITHMETIC,)}

__all__ = ["METHODS", "MergeMethod"]
