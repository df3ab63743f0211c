"""A plain model's folder to a quantized one: calibration, codes, the folder that other engines read, the report."""
