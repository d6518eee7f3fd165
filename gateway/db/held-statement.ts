/**
 * One statement as a transaction of its own whose commit waits: Bind, Execute and Flush go out at once,
 * Sync, which commits, when the caller is ready (PostgreSQL's message flow, extended query). Two round
 * trips instead of the four of BEGIN, statement and COMMIT.
 */
import pg from 'pg'

declare module 'pg' {
  // The calls of a client to the query that it runs; its own types leave them out.
  interface Query {
    handleCommandComplete(message: unknown, connection: pg.Connection): void
    handleError(error: Error, connection: pg.Connection): void
  }
}

/** More than any statement returns that is run in this way: the portal is never suspended. */
const mostRows = 1_000_000

/** A statement with its values, prepared once per connection under `name`. */
export interface HeldStatement {
  readonly name: string
  readonly text: string
  readonly values: readonly unknown[]
}

/** Why a statement did not commit, and when. */
export class HeldFailure extends Error {
  /** `waiting`: the connection is in the middle of the transaction and has to be destroyed, which rolls back. */
  readonly stage: 'running' | 'waiting' | 'committing'

  constructor(stage: HeldFailure['stage'], cause: unknown) {
    super(`a held statement failed while ${stage}`, { cause })
    this.stage = stage
  }
}

/**
 * Runs the statement and commits it when `ready` resolves.
 *
 * @throws HeldFailure
 */
export async function runHeld<R>(
  client: pg.PoolClient,
  statement: HeldStatement,
  ready: Promise<unknown>,
): Promise<readonly R[]> {
  const { promise, resolve, reject } = Promise.withResolvers<readonly R[]>()
  const query = new HeldQuery(
    { name: statement.name, text: statement.text, values: [...statement.values], rows: mostRows },
    ready,
    reject,
    (error, result) => {
      if (error) reject(new HeldFailure(query.isCommitting ? 'committing' : 'running', error))
      else resolve(result.rows)
    },
  )
  client.query(query)
  return await promise
}

class HeldQuery extends pg.Query {
  readonly #ready: Promise<unknown>
  readonly #giveUp: (failure: HeldFailure) => void
  isCommitting = false

  constructor(
    config: pg.QueryConfig & { readonly rows: number },
    ready: Promise<unknown>,
    giveUp: (failure: HeldFailure) => void,
    callback: (error: Error | undefined, result: pg.ResultBuilder) => void,
  ) {
    super(config, callback)
    this.#ready = ready
    this.#giveUp = giveUp
  }

  override handleCommandComplete(message: unknown, connection: pg.Connection): void {
    const commit = (): void => {
      this.isCommitting = true
      super.handleCommandComplete(message, connection) // sends Sync, because of `rows`
    }
    this.#ready.then(commit, error => this.#giveUp(new HeldFailure('waiting', error)))
  }

  override handleError(error: Error, connection: pg.Connection): void {
    // After an error the server reads on to the next Sync.
    if (!this.isCommitting) connection.sync()
    super.handleError(error, connection)
  }
}
