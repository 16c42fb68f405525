"""LLaMA in Flax Linen: configuration, attention, the KV cache, the layers.

Axes, here and in every einsum of the package:

    B batch   T query positions   S key positions   N heads   K KV heads   G heads per KV head
    H head size   D embed   F mlp   V vocabulary   L layers   P shared prefix positions
"""
