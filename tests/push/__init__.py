"""Notifications, as gateways get them."""
