"""The ground: plain data that crosses borders, and the errors. Imports nothing of octavo."""
