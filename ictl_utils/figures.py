"""One function a figure; each returns a matplotlib figure that describes itself in ``fig.alt``.

Every function takes :class:`ictl_utils.measure.History` objects or plain arrays, gives axes with units,
and raises :class:`ictl_utils.config.IctlError` on input it cannot draw. :func:`show` displays a figure with
alt text and caption in a book page, in Jupyter and in Colab.
"""

from .figures_context import loss_by_position, loss_derivative_map, loss_map, pca_paths, window_snapshots
from .figures_heads import head_scores, heads_over_training, knockout
from .figures_style import Plot, View, colour, png, show
from .figures_tokens import attention_heads, attention_pattern, token_losses
from .figures_training import icl_scores, loss_curves, training_curves

__all__ = [
    "Plot",
    "View",
    "attention_heads",
    "attention_pattern",
    "colour",
    "head_scores",
    "heads_over_training",
    "icl_scores",
    "knockout",
    "loss_by_position",
    "loss_curves",
    "loss_derivative_map",
    "loss_map",
    "pca_paths",
    "png",
    "show",
    "token_losses",
    "training_curves",
    "window_snapshots",
]
