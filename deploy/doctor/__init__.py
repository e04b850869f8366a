"""`headrace doctor`: what a deployment is, judged part by part, a finding a line."""
