"""Networks that denoise an action chunk: (noisy (B, Tp, Da), t (B,), conditioning) -> (B, Tp, Da)."""
