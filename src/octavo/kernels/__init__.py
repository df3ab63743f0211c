"""The native kernels' Python face: packed weights and the binding. Imports nothing of octavo; could be lifted out."""
