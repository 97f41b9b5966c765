"""Figures that the DP-ViT paper printed: S. Yang, Traitement du Signal 41(3), 2024.

It names no data set, no epsilon in the tables, no delta, sampling, accountant, batch or rate.
Accuracies are in percent, parameters in millions and "FLOPs" in G, taken as multiply-accumulates.
"""

# Table 1: top-1 accuracy by number of epochs.
SYSTEMS: dict[str, dict[str, float]] = {
    name: dict(zip(("macs", "parameters", "10", "20", "30", "40", "50"), figures, strict=True))
    for name, figures in {
        "FedAvg": (15.21, 85.69, 11.03, 19.25, 24.21, 30.12, 35.21),
        "PP-GAN": (4.23, 23.14, 12.89, 23.16, 30.26, 34.56, 39.87),
        "MPC": (1.36, 21.56, 17.85, 27.54, 33.15, 36.59, 40.26),
        "proposed": (1.58, 22.14, 16.32, 26.39, 33.26, 37.54, 41.26),
    }.items()
}

# Table 2: top-1 and top-5 accuracy by kind of attention.
ATTENTION: dict[str, dict[str, float]] = {
    "threshold": {"accuracy": 54.32, "top_5": 77.24},
    "self": {"accuracy": 56.98, "top_5": 79.65},
    "hierarchical": {"accuracy": 62.35, "top_5": 82.31},
}

# Table 3: by number of heads. Parameters and multiply-accumulates: models.description.PUBLISHED.
HEADS: dict[int, dict[str, float]] = {
    4: {"accuracy": 60.54, "top_5": 82.31},
    8: {"accuracy": 62.31, "top_5": 82.41},
    12: {"accuracy": 62.65, "top_5": 81.23},
}

# Figure 5: accuracy at step 2000. The text gives the same figures for both budgets.
AT_STEP_2000 = {"proposed": 95.7, "FedAvg": 92.0, "PP-GAN": 91.4, "MPC": 94.6}

# Figures 6 and 7: before and after "using the vision Transformer network", at epoch 15. Accuracies
# above 1 are printed so.
TRANSFORMER: dict[str, dict[str, str]] = {
    "without": {"loss": "0.73 to 0.77", "accuracy": "0.618", "precision": "0.42 to 0.76"},
    "with": {"loss": "0.704", "accuracy": "1.55", "precision": "0.448", "recall": "0.52"},
}
