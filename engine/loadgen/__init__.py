"""How is load made, and when did its answers come?"""
