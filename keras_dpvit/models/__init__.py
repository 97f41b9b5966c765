"""Models: backbone, classifier, fusion of classifiers, presets.

They import, serve and export without any training code. Private training reaches them through
the optimizer they are compiled with (`private_training`).
"""
