"""A page at ``/`` that shows what the server does, and lets a person train and compare adapters.

It is files alone: no network but the server itself, and no build. What it shows it asks for with
the person's key, by the same routes as every client.
"""
