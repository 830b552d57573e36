"""Who answers what, and how does one answer become one row? Everything between a prompt and a part,
but no engine and no cluster."""
