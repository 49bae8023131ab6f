"""Conversations and preference pairs: formats, template, rules, packing."""
