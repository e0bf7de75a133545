// The suite's client against a server:
//     node client.mjs SERVER ORIGIN RESULTS_FILE LOUD [ID...]
// Writes [{suite, id, kind, verdict, message}], the verdicts by the suite's own rules;
// with IDs for those tests alone, one by one. LOUD that is not empty: their requests and
// answers go to stdout.
import { writeFileSync } from 'node:fs'
import fetch from 'node-fetch'
import { getResults, runTests } from 'http-cache-tests/client/runner.mjs'
import { determineTestResult } from 'http-cache-tests/lib/display.mjs'
import suites from 'http-cache-tests/tests/index.mjs'

const VERDICTS = {
  '✅': 'pass',
  Y: 'pass',
  '⛔️': 'fail',
  '⚠️': 'fail',
  N: 'fail',
  '🔹': 'setup failed',
  '⁉️': 'harness failed',
  '⚪️': 'dependency failed',
  '↻': 'retried'
}
const [server, origin, file, loud, ...ids] = process.argv.slice(2)
const all = ids.length === 0
const wanted = suites.map(suite => ({
  id: suite.id, tests: suite.tests.filter(test => all || ids.includes(test.id))
}))
if (loud) wanted.forEach(suite => suite.tests.forEach(test => { test.dump = true }))

// What a test tells the origin beforehand goes there directly. A hundred PUTs at once
// through the server are a hundred invalidations, and each refuses what is being stored
// for another key of its stripe: that costs a fetch, and here now and then a verdict.
const past = (url, init) => fetch(url.replace(`${server}/config/`, `${origin}/config/`), init)

await runTests(wanted, past, false, server, all ? 100 : 1)
const results = getResults()
const told = wanted.flatMap(suite => suite.tests
  .filter(test => test.id in results) // without those for browsers alone
  .map(test => ({
    suite: suite.id,
    id: test.id,
    kind: test.kind ?? 'required',
    verdict: VERDICTS[determineTestResult(suites, test.id, results, all)[2]],
    message: results[test.id] === true ? '' : results[test.id].join(': ')
  })))
writeFileSync(file, JSON.stringify(told))
