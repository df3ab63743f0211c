"""From a checkpoint's quantized bytes to a packed Weight. A format never survives past load."""
