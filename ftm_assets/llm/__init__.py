"""Everything about the language model: what is asked, how it is sent, checked, limited, paid and remembered."""
