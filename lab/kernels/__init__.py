"""Reductions, one file each: definition, kernel, gradient, and the function that chooses between kernel and torch."""

from lab.kernels import attention_columns, segment_pool, segment_stats

# the raw kernel with its gradient, and the definition that tests hold it to; both take the same arguments
KERNELS = {
    "segment_pool": (segment_pool.apply, segment_pool.reference),
    "segment_stats": (segment_stats.apply, segment_stats.reference),
    "attention_columns": (attention_columns.apply, attention_columns.reference),
}
