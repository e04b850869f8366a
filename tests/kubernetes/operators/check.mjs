// Objects of operators, as JSON on standard input, against the operators' own schemas.
import { readFileSync } from "node:fs";

const packages = { "keda.sh": "keda", "monitoring.coreos.com": "prometheus-operator" };
let wrong = 0;
for (const one of JSON.parse(readFileSync(0, "utf8"))) {
  const [group, version] = one.apiVersion.split("/");
  const found = await import(`@kubernetes-models/${packages[group]}/${group}/${version}`);
  try {
    new found[one.kind](one).validate();
  } catch (error) {
    console.log(`${one.kind} ${one.metadata.name}: ${error.message}`);
    wrong += 1;
  }
}
process.exitCode = wrong ? 1 : 0;
