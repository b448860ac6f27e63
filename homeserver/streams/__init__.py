"""From one commit to everybody who must hear of it."""
