"""Pictures of a model and of what it attends to, drawn from the model itself.

matplotlib is imported when a picture is drawn, and its global state is left alone.
"""

from keras_dpvit.plots.architecture import architecture_figure, plot_architecture
from keras_dpvit.plots.attention import attention_figure, plot_attention_maps

__all__ = [
    "architecture_figure",
    "attention_figure",
    "plot_architecture",
    "plot_attention_maps",
]
