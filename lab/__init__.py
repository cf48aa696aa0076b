"""The lab: how pooling, layers and attention turn token states into embeddings."""
