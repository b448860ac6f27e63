"""Unread counts and notifications."""
