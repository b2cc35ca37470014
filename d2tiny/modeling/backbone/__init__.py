"""Backbone builders for the registry."""
