"""The scheduling half of the engine. Imports no torch and reads no clock."""
