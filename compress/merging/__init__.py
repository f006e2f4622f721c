"""Merge methods: one file each, one registry. A recipe names a method and is checked against it."""

from compress.merging.average import AVERAGE
from compress.merging.dare import DARE
from compress.merging.fisher import FISHER
from compress.merging.merge_to_learn import MERGE_TO_LEARN
from compress.merging.method import MergeMethod
from compress.merging.regmean import REGMEAN
from compress.merging.task_arithmetic import TASK_ARITHMETIC
from compress.merging.ties import TIES, TIES_PER_TENSOR
from compress.merging.tsv import TSV

METHODS: dict[str, MergeMethod] = {
    method.name: method
    for method in (
        AVERAGE,
        TASK_ARITHMETIC,
        TIES,
        TIES_PER_TENSOR,
        DARE,
        TSV,
        FISHER,
        REGMEAN,
        MERGE_TO_LEARN,
    )
}

__all__ = ["METHODS", "MergeMethod"]
