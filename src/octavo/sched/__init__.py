"""Which tokens are computed in which step. Moves integers; knows no tensor, model or HTTP."""
