"""Networks that denoise an action chunk: noisy (B, Tp, Da), times (B,), conditioning (B, S, Dc) -> (B, Tp, Da)."""
