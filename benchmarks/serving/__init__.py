"""Measuring HTTP servers from outside: one small client, servers in processes of their own, figures from arrivals."""
