"""The alphabet of dimension letters, one meaning each, used in annotations, einsums and suffixes.

    B  batch (rows)                  T  query position in a row       S  key position
    D  model width                   N  query heads                   K  key/value heads
    G  query heads per key head (N/K)                                 H  head width
    F  feed-forward width            V  padded vocabulary             L  layers
    C  chunk of tokens               R  rollouts per prompt

A local whose shape is not plain carries its letters as a suffix: `q_BTKGH`. `axis` always names a
mesh axis, `dim` a tensor dimension.
"""

from jaxtyping import Array, Float, Int

Tokens = Int[Array, "B T"]
Positions = Int[Array, "B T"]
Weights = Float[Array, "B T"]
Hidden = Float[Array, "B T D"]
Queries = Float[Array, "B T N H"]
Keys = Float[Array, "B S K H"]
Scalar = Float[Array, ""]
