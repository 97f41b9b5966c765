"""The privacy mechanism, pure: no Keras here, and TensorFlow only inside functions that need it.

What bounds a record's influence (`clipping`, `sensitivity`), which records take part in a step
(`sampling`), where the noise comes from (`randomness`), what was spent (`ledger`, `accounting`),
the one object that ties them together (`plan`) and what may be said about it (`statement`).
"""
