"""Where does it happen? Everything that imports ray, vllm or deepspeed, and what asks other
people's servers."""
