"""Figures of finished runs for people: text, tables, pages. Reads files only."""
