"""Application services: bridges and bots that see the events of their users and rooms.

spec: application-service-api#application-services
"""
